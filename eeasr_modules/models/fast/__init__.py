"""The same outputs in less time: layers, convolutions and the front end of wav2vec 2.0 and its kin."""
