"""The emoji pipeline: a small text-to-image pipeline in diffusers' format, trained by the project on Noto's emoji.

`loralith emoji train` fetches the pictures, trains the VAE, then the text encoder with the U-Net; `export` writes the pipeline's folder;
`measure` judges its pictures by an encoder that was trained on other pictures.
"""
