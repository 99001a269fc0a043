"""Before the model: manifests, text, vocabularies, audio reading, shifts of test sets."""
