"""The datapath in C, its compiler driver (`compile.py`) and the compiled objects (`manifest.py`)."""
