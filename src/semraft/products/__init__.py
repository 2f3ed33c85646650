"""Networks and flow for other programs: weight layouts, ONNX, submissions to benchmarks, videos."""
