"""TensorRT: engines are built from ONNX graphs, told apart by a tag, and run with torch tensors as buffers.

Two packages do the same under two names, `tensorrt` and `tensorrt_rtx`; nothing outside `package.py` cares which.
"""
