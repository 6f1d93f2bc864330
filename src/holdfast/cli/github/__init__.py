"""The gate as an action of GitHub: what ``action.yml`` runs, with its inputs from the environment.

    python -P -m holdfast.cli.github

Names, texts and reasons are untrusted: they come from models and from whoever opened a pull request. Each goes out
through one function that makes it inert where it lands: a command of the runner (``telling.command``), an output of the
step (``telling.output_lines``), Markdown (``escape_markdown``).
"""
