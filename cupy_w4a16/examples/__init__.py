"""Examples to read, run and copy from.

python -m cupy_w4a16.examples.decoder        a language model's decoder, one CUDA graph a token
python -m cupy_w4a16.examples.columns        embeddings of a column of texts, and nearest neighbours
python -m cupy_w4a16.examples.torch_tensors  PyTorch tensors in and out, on PyTorch's stream
"""
