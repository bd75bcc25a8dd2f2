"""The demo: a real sentence encoder with every linear layer in 4 bits, beside its float32 self.

`python -m cupy_w4a16 demo` runs it. Read in this order: `model_files` finds and loads the model,
`encoder` is the arithmetic, `linears` its layers in float32 and in 4 bits, `truth` what float32
gives, `measure` compares the two, `report` prints and `plot` draws what was measured, `methods`
compares methods to quantize, `run` strings them together; `arguments` is the command line.
"""
