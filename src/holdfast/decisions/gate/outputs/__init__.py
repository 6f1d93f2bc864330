"""What a gate gives to people and machines: text, Markdown, JUnit XML, JSON, and evidence for an auditor.

Every one of them says the same verdicts in the same words and numbers, which ``holdfast.report.sections.gate`` and
``document`` make; each escapes names in its own way, because a model may have written them.
"""

from holdfast.decisions.gate.outputs.document import document, gate_document
from holdfast.decisions.gate.outputs.junit import render_junit
from holdfast.decisions.gate.outputs.markdown import render_markdown
from holdfast.decisions.gate.outputs.text import render_text

__all__ = ["document", "gate_document", "render_junit", "render_markdown", "render_text"]
