"""Simulation of INT8 models in torch, with the roundings of the artefact."""
