"""Early exit by ONNX graphs: their export, and the loop that runs them without torch."""
