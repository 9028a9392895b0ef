"""Exported graphs: capture, coupling analysis, surgery, and the ONNX files made of them."""
