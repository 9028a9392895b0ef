"""Latency by layer and end to end: measured on a device, predicted without one."""
