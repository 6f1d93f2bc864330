"""What a gate gives to people and machines: text, Markdown, JUnit XML, JSON, and evidence for an auditor.

Every one of them says the same verdicts in the same words and numbers, which ``holdfast.report.sections.gate`` and
``document`` make; each escapes names in its own way, because a model may have written them.
"""
