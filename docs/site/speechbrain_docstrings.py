"""SpeechBrain's section names in docstrings, and comments beside fields, as the reference's parser knows them."""

import griffe

SECTIONS = {"Arguments\n---------": "Parameters\n----------", "Example\n-------": "Examples\n--------"}


class SpeechBrainDocstrings(griffe.Extension):
    """Renames `Arguments` and `Example` before docstrings are parsed; what stands beside a field becomes its own."""

    def on_object(self, *, obj, **_):
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            for ours, numpys in SECTIONS.items():
                obj.docstring.value = obj.docstring.value.replace(ours, numpys)
        elif obj.is_attribute and obj.parent.is_class and (said := _comment(obj)):
            obj.docstring = griffe.Docstring(said, parent=obj, lineno=obj.lineno)


def _comment(field) -> str:
    """Of a field's line, or else of the lines above it."""
    if field.lineno is None:
        return ""
    _, mark, said = field.lines[-1].partition("  # ")
    above, at = [], field.lineno - 2
    lines = field.lines_collection[field.filepath]
    while not mark and lines[at].strip().startswith("# "):
        above.insert(0, lines[at].strip().removeprefix("# "))
        at -= 1
    return said or " ".join(above)
