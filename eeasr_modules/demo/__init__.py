"""A page on this machine that shows a model listening, exit by exit (`eeasr demo`, extra `demo`)."""
