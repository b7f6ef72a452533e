"""The style of reports: light and dark by the reader's scheme, for phones, screens and paper."""

STYLE_SHEET = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --raised: #f5f6f8; --ink: #1b1f24; --soft: #545c66; --rule: #d5dae0;
  --link: #0b5cad; --good: #0b6b4c; --bad: #a33c00; --open: #5a6572;
  --blue: #0072b2; --orange: #d55e00; --green: #009e73; --pink: #c2649b; --sky: #3a9fd6;
  --amber: #c98a00; --gray: #666666;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --raised: #1e2329; --ink: #e8ebef; --soft: #a9b2bd; --rule: #3a424c;
    --link: #7cbcf5; --good: #4fd3a2; --bad: #ff9a62; --open: #a9b2bd;
    --blue: #4aa8e0; --orange: #ff8a3d; --green: #2fc79a; --pink: #e39cc4; --sky: #8fd0f5;
    --amber: #f0b73c; --gray: #a2a8af;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
.page { max-width: 66rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
.skip { position: absolute; left: -99rem; }
.skip:focus { left: 1rem; top: .5rem; background: var(--paper); padding: .5rem; z-index: 1; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .2rem 0 0; overflow-wrap: anywhere; }
h2 { font-size: 1.22rem; margin: 2.6rem 0 .7rem; padding-top: .7rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p, ul, ol { margin: .55rem 0; max-width: 46rem; overflow-wrap: anywhere; }
.kind { color: var(--soft); margin: 0; font-size: .9rem; }
a { color: var(--link); }
a:focus-visible, summary:focus-visible, .scroll:focus-visible {
  outline: 3px solid var(--link); outline-offset: 2px; border-radius: 3px;
}
nav ul { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; padding: 0; list-style: none;
  margin: 1rem 0 0; max-width: none; font-size: .93rem; }
nav a { display: inline-block; padding: .25rem 0; }
.verdict { background: var(--raised); border-left: .35rem solid var(--open); border-radius: .4rem;
  padding: .8rem 1.1rem; margin: 1.2rem 0; }
.verdict p:first-of-type { font-size: 1.12rem; font-weight: 600; line-height: 1.4; }
.verdict.good { border-color: var(--good); }
.verdict.bad { border-color: var(--bad); }
.notice { border: 2px solid var(--bad); border-radius: .4rem; padding: .6rem 1rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem;
  margin: 1.2rem 0; padding: 0; }
.tiles div { background: var(--raised); border-radius: .4rem; padding: .65rem .85rem;
  display: flex; flex-direction: column; }
.tiles dt { order: 2; font-size: .87rem; color: var(--soft); line-height: 1.3; }
.tiles dd { margin: 0; }
.tiles .figure { font-size: 1.35rem; font-weight: 650; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.tiles .small { order: 3; font-size: .82rem; color: var(--soft); line-height: 1.3; }
.facts { display: grid; grid-template-columns: minmax(6.5rem, max-content) 1fr; gap: .35rem 1.3rem;
  margin: .8rem 0; }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr));
  gap: 1rem; align-items: start; }
.pictures figure { min-width: 0; }
figure { margin: .6rem 0; }
figure svg, figure img { width: 100%; height: auto; display: block; overflow: visible; }
.wide { overflow-x: auto; }
.wide svg, .wide img { min-width: 30rem; }
figure svg text { font-family: inherit !important; }
figcaption { font-size: .87rem; color: var(--soft); margin-top: .3rem; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums;
  min-width: min(100%, 24rem); }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td { padding: .32rem .75rem .32rem 0; border-bottom: 1px solid var(--rule); text-align: right;
  vertical-align: top; }
th[scope=row], th.name, td.words { text-align: left; font-weight: 500; }
thead th { font-weight: 600; border-bottom: 2px solid var(--rule); vertical-align: bottom; }
td:not(.words) { white-space: nowrap; }
.about { color: var(--soft); font-size: .9rem; max-width: 52rem; }
td.words { min-width: 9rem; max-width: 30rem; overflow-wrap: break-word; }
th[scope=row] { min-width: 4rem; max-width: 22rem; overflow-wrap: break-word; }
th:first-child, td:first-child { padding-left: .1rem; }
details { margin: .8rem 0; border: 1px solid var(--rule); border-radius: .4rem;
  padding: 0 .9rem; }
summary { cursor: pointer; padding: .55rem 0; font-weight: 550; }
pre { background: var(--raised); border-radius: .4rem; padding: .8rem 1rem; overflow-x: auto;
  font: .85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: .92em; }
.statements { padding: 0; list-style: none; }
.statements li { padding: .1rem 0 .1rem 1rem; border-left: .3rem solid var(--open);
  margin: .55rem 0; }
.statements .good { border-color: var(--good); }
.statements .bad { border-color: var(--bad); font-weight: 600; }
footer { margin-top: 3rem; color: var(--soft); font-size: .87rem; }
@media (max-width: 34rem) {
  .page { padding: 1rem .9rem 3rem; }
  .facts { grid-template-columns: 1fr; gap: 0; }
  .facts dd { margin-bottom: .6rem; }
  .tiles { grid-template-columns: 1fr 1fr; }
}
@media print {
  :root { --paper: #fff; --raised: #f4f4f4; --ink: #000; --soft: #444; --rule: #bbb;
    --link: #000; --blue: #0072b2; --orange: #d55e00; --green: #009e73; --pink: #c2649b;
    --sky: #3a9fd6; --amber: #c98a00; --gray: #666; --good: #0b6b4c; --bad: #a33c00;
    --open: #555; }
  body { font-size: 10pt; }
  .page { max-width: none; padding: 0; }
  nav, .skip { display: none; }
  .scroll, .wide { overflow: visible; }
  .wide svg, .wide img { min-width: 0; }
  figure, .tiles, .verdict, tr { break-inside: avoid; }
  h2, h3, caption { break-after: avoid; }
}
"""
