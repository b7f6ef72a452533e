"""Reports for a browser: one self-contained HTML file of a run, or of a sweep or comparison.

They are made of a folder's files alone, as text: nothing that a folder names is imported or run.
``run_facts`` reads a run, the modules ``..._in_words`` say what was found, ``run_page`` and
``sweep_page`` lay it out by the templates. Not for: which folders are reported, which
``fedkd.cli.html_report`` finds.
"""
