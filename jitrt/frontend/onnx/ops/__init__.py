"""The importers of ONNX's operators, a family a file; see `jitrt.frontend.onnx.registry`."""
