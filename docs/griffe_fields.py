"""An extension of griffe: what a record says of a field, `Field(description=...)`, becomes the field's docstring."""

import ast
from typing import Any

from griffe import Attribute, Docstring, Extension


class FieldDescriptions(Extension):
    """Reads the descriptions of pydantic fields off the source; nothing is imported."""

    def on_attribute_instance(self, *, node: Any, attr: Attribute, **_others: Any) -> None:
        call = getattr(node, "value", None)
        if not isinstance(node, ast.AnnAssign) or not isinstance(call, ast.Call) or ast.unparse(call.func) != "Field":
            return
        said = {keyword.arg: keyword.value for keyword in call.keywords}
        description = said.get("description")
        if isinstance(description, ast.Constant) and attr.docstring is None:
            attr.docstring = Docstring(str(description.value), parent=attr, lineno=node.lineno)
        # The default in the place of the call that holds it.
        attr.value = ast.unparse(call.args[0]) if call.args else None
