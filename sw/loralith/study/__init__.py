"""`loralith study`: training schemes against FP32 over paired seeds, on the small diffusion model.

`schemes`: what is compared. `point`: one run. `point_store`: points as files. `figures`: means, paired differences, intervals.
`study_report`: files for readers. `methods`: the training methods compared with each other.
"""
