"""SpeechBrain's section names in docstrings, as the reference's parser knows them."""

import griffe

SECTIONS = {"Arguments\n---------": "Parameters\n----------", "Example\n-------": "Examples\n--------"}


class SpeechBrainDocstrings(griffe.Extension):
    """Renames `Arguments` and `Example` before docstrings are parsed."""

    def on_object(self, *, obj, **_):
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            for ours, numpys in SECTIONS.items():
                obj.docstring.value = obj.docstring.value.replace(ours, numpys)
