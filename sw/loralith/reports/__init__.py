"""What is written for readers.

- `result_files`: the JSON file and the page of every measured result, with its commit; `rtl_hash`: which RTL it was measured on.
- `run_report`, `run_page`, `loss_chart`, `picture`: what a finished fine-tune leaves: report.json, report.html and samples.png.

A report of a study is in `study`, of a synthesis in `synth`, of shapes in `shapes`: figures are computed where their subject is, and
`loralith report NAME` prints and writes them (`cli/report_NAME.py`).
"""
