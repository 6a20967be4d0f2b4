"""What is written for readers.

- `result_files`: the JSON file and the page of every measured result, with its commit; `rtl_hash`: which RTL it was measured on;
  `results_report`: the same of all committed results.
- `run_report`, `run_html`, `loss_chart`, `picture`: what a finished fine-tune leaves: report.json, report.html and samples.png.
- `rtl_report`, `vector_report`, `coverage_report`, `testplan_report`, `suites_report`, `tests_report`, `simulator_report`: reports whose
  subject has no folder of its own here: the RTL, its simulation and the tests.

Other reports lie where their subject is: `synth/area_report.py`, `energy/energy_report.py`, `training/memory_report.py`,
`shapes/shapes_report.py`, `study/study_report.py`. `loralith report NAME` prints and writes them: `cli/report_NAME.py` has the options and
names the module. A further report is a module `<subject>_report.py` with `figures`, `title` and `page` here or beside its subject,
`cli/report_NAME.py`, and its name in `cli/report.py`.
"""
