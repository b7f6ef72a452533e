"""The templates of reports, as Jinja reads them; what fills them is escaped.

They stand in a module, not in files, so that they are wherever the code is.
"""

from fedkd.report.pages.style_sheet import STYLE_SHEET

PARTS = """\
{% macro grid(table) %}
{% if table.title %}<p class="about">{{ table.caption }}</p>{% endif %}
<div class="scroll" role="region" aria-label="{{ table.title or table.caption }}" tabindex="0">
<table>
<caption>{{ table.title or table.caption }}{% if table.note %}. {{ table.note }}{% endif %}
</caption>
<thead><tr>
{% for name in table.header %}
<th scope="col"{% if loop.index <= table.names %} class="name"{% endif %}>
{{- name or "verdict" }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>{% for cell in row %}
{% if loop.index <= table.names %}<th scope="row">{{ cell }}</th>
{%- else %}<td{% if cell|length > 16 %} class="words"{% endif %}>{{ cell }}</td>{% endif %}
{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endmacro %}
{% macro shown(pictures) %}
{% if pictures %}
<div class="pictures">
{% for one in pictures %}
<figure style="max-width: {{ (one.width * 1.9)|round|int }}px">
{% if one.width > 320 %}
<div class="wide" role="region" aria-label="{{ one.caption }}" tabindex="0">{{ one.markup }}</div>
{% else %}
{{ one.markup }}
{% endif %}
<figcaption>{{ one.caption }}</figcaption>
</figure>
{% endfor %}
</div>
{% endif %}
{% endmacro %}
{% macro folded(title, table) %}
{% if table %}
<details><summary>{{ title }}</summary>
{{ grid(table) }}
</details>
{% endif %}
{% endmacro %}
{% macro statements(found) %}
<ul class="statements">
{% for one in found %}<li class="{{ one.tone }}">{{ one.text }}</li>
{% endfor %}
</ul>
{% endmacro %}
"""

PAGE = """\
{% import "parts.html" as parts %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="generator" content="fedkd">
<title>{{ title }} – fedkd</title>
<style>{% include "style.css" %}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the report</a>
<div class="page">
<header>
<p class="kind">fedkd, {{ kind }}</p>
<h1>{{ title }}</h1>
{% block lead %}{% endblock %}
<nav aria-label="Contents"><ul>
{% for name, heading in sections %}<li><a href="#{{ name }}">{{ heading }}</a></li>
{% endfor %}
</ul></nav>
</header>
<main id="content" tabindex="-1">
{% block content %}{% endblock %}
</main>
<footer><p>Made by fedkd from the files of the run's folder. Nothing here is loaded from elsewhere.
</p></footer>
</div>
</body>
</html>
"""

RUN = """\
{% extends "page.html" %}
{% set kind = "report of a run" %}
{% set sections = [("run", "What was run"), ("accuracy", "Accuracy by round"),
 ("gain", "Gains by client"), ("weights", "Who teaches whom"), ("partition", "Partition"),
 ("traffic", "Bytes"), ("privacy", "Privacy"), ("audit", "Audit"), ("settings", "Settings"),
 ("repeat", "Repeat it")] %}
{% block content %}
{% if notice %}<p class="notice"><strong>Status: {{ status }}.</strong> {{ notice }}</p>{% endif %}
<section class="verdict {{ tone }}" aria-label="Verdict">
{% for sentence in verdicts %}<p>{{ sentence }}</p>
{% endfor %}
{% if one_seed %}<p>{{ one_seed }}</p>{% endif %}
</section>
<dl class="tiles">
{% for figure, name, note in tiles %}
<div><dt>{{ name }}</dt><dd class="figure">{{ figure }}</dd>
{%- if note %}<dd class="small">{{ note }}</dd>{% endif %}</div>
{% endfor %}
</dl>

<h2 id="run">What was run</h2>
<dl class="facts">
{% for name, text in described %}<dt>{{ name }}</dt><dd>{{ text }}</dd>
{% endfor %}
</dl>
{% if warnings %}
<h3>Warnings before the run</h3>
<ul>{% for text in warnings %}<li>{{ text }}</li>{% endfor %}</ul>
{% endif %}

<h2 id="accuracy">Accuracy by round</h2>
{{ parts.shown(pictures.accuracy) }}
{{ parts.folded("The figures of every round", rounds) }}
{% for line in text_lines %}<p>{{ line }}</p>
{% endfor %}
{% if trouble %}
<h3>What went wrong</h3>
{{ parts.grid(trouble) }}
{% endif %}

<h2 id="gain">Gains by client</h2>
{% if gains %}{{ parts.grid(gains) }}{% else %}<p>There are no gains to show.</p>{% endif %}
{{ parts.shown(pictures.gain) }}
{{ parts.folded("The figures of every client, and who teaches it", clients) }}

<h2 id="weights">Who teaches whom</h2>
{% if pictures.weights %}
<p>Each row is a client that learns, each column one that teaches it: how much it weighs in the
row's teacher. The gray diagonal is what a client weighs for itself, in %. Where weights follow
the label distributions, the two pictures look alike.</p>
{{ parts.shown(pictures.weights) }}
{% else %}<p>No weights were recorded.</p>{% endif %}

<h2 id="partition">Partition</h2>
{% if partition %}
{{ parts.shown(pictures.partition) }}
{{ parts.folded("Counts by client and class", partition) }}
{% else %}<p>The run stored no counts by class.</p>{% endif %}

<h2 id="traffic">Bytes</h2>
{% for text in traffic %}<p>{{ text }}</p>{% else %}<p>Nothing is known of what was sent.</p>
{% endfor %}

<h2 id="privacy">Privacy</h2>
{{ parts.statements(claims) }}
{% if outside %}<ul>{% for text in outside %}<li>{{ text }}</li>{% endfor %}</ul>{% endif %}

<h2 id="audit">Audit</h2>
{% if audit %}
{{ parts.statements(audit) }}
{% if audit_table %}{{ parts.folded("Every attack", audit_table) }}{% endif %}
{% if limits %}<p>What it does not show:</p>
<ul>{% for text in limits %}<li>{{ text }}</li>{% endfor %}</ul>{% endif %}
{% else %}
<p>The run was not audited: nobody attacked what it sent. <code>audit=canaries</code> does.</p>
{% endif %}

<h2 id="settings">Settings and versions</h2>
{{ parts.folded("All settings", settings) }}
{% if versions.rows %}{{ parts.folded("Versions", versions) }}{% endif %}
{% if checksum %}<p>SHA-256 of the last fused teachers: <code>{{ checksum }}</code></p>{% endif %}

<h2 id="repeat">Repeat it</h2>
{% if only_here %}<p>The run used objects of a Python session, which no file has:
{{ only_here|join(", ") }}.</p>{% endif %}
<p>In the folder of the run, or with the text below saved as <code>config.yaml</code>:</p>
<pre tabindex="0"><code>{{ command }}</code></pre>
<details><summary>config.yaml</summary>
<pre tabindex="0"><code>{{ config }}</code></pre></details>
{% endblock %}
"""

SWEEP = """\
{% extends "page.html" %}
{% set kind = "report of several runs" %}
{% set sections = [("pictures", "Pictures"), ("tables", "Tables"), ("runs", "Runs")] %}
{% block content %}
{% if notices %}
<div class="notice"><p><strong>Not all runs are in the tables:</strong></p>
<ul>{% for text in notices %}<li>{{ text }}</li>{% endfor %}</ul></div>
{% endif %}
<section class="verdict {{ tone }}" aria-label="Verdict">
{% for sentence in verdicts %}<p>{{ sentence }}</p>
{% endfor %}
</section>
<dl class="facts">
{% for name, text in described %}<dt>{{ name }}</dt><dd>{{ text }}</dd>
{% endfor %}
</dl>

<h2 id="pictures">Pictures</h2>
{% for one in pictures %}{{ parts.shown([one]) }}
{% else %}<p>There are none.</p>{% endfor %}

<h2 id="tables">Tables</h2>
{% for table in tables[:2] %}<h3>{{ table.title }}</h3>
{{ parts.grid(table) }}
{% else %}<p>There is nothing to compare.</p>{% endfor %}
{% for table in tables[2:] %}{{ parts.folded(table.title, table) }}{% endfor %}
{% if notes %}<ul>{% for text in notes %}<li>{{ text }}</li>{% endfor %}</ul>{% endif %}

<h2 id="runs">Runs</h2>
<div class="scroll" role="region" aria-label="Runs" tabindex="0">
<table><caption>Every run, with a link to its report where there is one</caption>
<thead><tr><th scope="col" class="name">run</th>
{% for name in run_header %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for run in runs %}
<tr><th scope="row">{% if run.link %}<a href="{{ run.link }}">{{ run.name }}</a>
{%- else %}{{ run.name }}{% endif %}</th>
{% for cell in run.cells %}<td{% if cell|length > 16 %} class="words"{% endif %}>{{ cell }}</td>
{%- endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endblock %}
"""

TEMPLATES = {
    "parts.html": PARTS,
    "page.html": PAGE,
    "style.css": STYLE_SHEET,
    "run.html": RUN,
    "sweep.html": SWEEP,
}
