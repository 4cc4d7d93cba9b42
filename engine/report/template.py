"""The page around the charts."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · Kolmogram</title>
<style>
:root {{ --ink: #17212b; --muted: #6c7884; --hair: #e3e7eb; --accent: #c9304a; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: #f6f7f8; color: var(--ink); font-variant-numeric: tabular-nums;
  font: 15px/1.55 Inter, "Helvetica Neue", Helvetica, Arial, sans-serif; }}
main {{ max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px; }}
.brand {{ display: flex; align-items: center; gap: 10px; color: var(--muted); font-size: 13px; letter-spacing: .02em; }}
header svg {{ width: 54px; height: 18px; }}
h1 {{ font-size: 32px; line-height: 1.2; margin: 10px 0 8px; letter-spacing: -.02em; overflow-wrap: anywhere; }}
h1.run {{ font-size: 24px; margin: 44px 0 0; }}
h2 {{ font-size: 17px; margin: 0; letter-spacing: -.01em; }}
.findings {{ font-size: 18px; line-height: 1.5; max-width: 48em; margin: 0 0 18px; }}
dl {{ display: flex; gap: 36px; margin: 0 0 8px; }}
dt {{ color: var(--muted); font-size: 12px; }}
dd {{ margin: 0; font-size: 17px; font-weight: 600; }}
section {{ background: #fff; border: 1px solid var(--hair); border-radius: 10px; padding: 22px 24px 14px;
  margin-top: 20px; }}
section > p {{ color: var(--muted); margin: 2px 0 10px; font-size: 14px; }}
.runs {{ list-style: none; padding: 0; margin: 16px 0 0; }}
.runs li {{ margin: 6px 0; }}
.runs i {{ display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 8px; }}
.runs span {{ color: var(--muted); }}
.scroll {{ overflow-x: auto; margin: 12px -24px 0; padding: 0 24px; }}
table {{ border-collapse: collapse; width: 100%; font-size: 13px; }}
th, td {{ text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--hair); white-space: nowrap; }}
th {{ color: var(--muted); font-weight: 500; vertical-align: bottom; }}
th:first-child, td:first-child {{ text-align: left; padding-left: 0; }}
td:first-child {{ color: var(--muted); }}
tr:has(+ .problem) td {{ border-bottom: 0; }}
.problem td {{ color: var(--accent) !important; white-space: normal; padding-top: 0; }}
th {{ white-space: normal; min-width: 64px; }}
tbody tr:hover {{ background: #fafbfc; }}
details {{ margin: 18px 2px; color: var(--muted); font-size: 13px; }}
summary {{ cursor: pointer; }}
pre {{ overflow-x: auto; background: #fff; border: 1px solid var(--hair); border-radius: 10px; padding: 14px; }}
@media print {{ body {{ background: #fff; }} section {{ break-inside: avoid; border: 0; padding: 0; }} }}
</style>
<script>{plotly}</script>
</head>
<body>
<main>
<header>
<div class="brand"><svg viewBox="0 0 54 18" fill="none" stroke="#c9304a" stroke-width="2"
><path d="M1 14 H12 C20 14 20 2 26 2 S33 15 40 15 H53"/></svg>kolmogram</div>
{heading}
</header>
{body}
</main>
<script>
const charts = {charts};
const options = {{ displaylogo: false, responsive: true,
  toImageButtonOptions: {{ format: "svg", filename: "kolmogram" }},
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"] }};
for (const [id, chart] of Object.entries(charts)) Plotly.newPlot(id, chart.data, chart.layout, options);
</script>
</body>
</html>
"""
