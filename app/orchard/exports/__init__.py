"""A trained model as one file: ONNX, OpenVINO, Keras or LiteRT, from the pixels of a photo to probabilities."""
