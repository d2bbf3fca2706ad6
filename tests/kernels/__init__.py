"""The programs on Debian's kernels, in a virtual machine: `python -m tests.kernels` (`make test-kernels`).

A kernel package is unpacked, never installed. The machine (emulated, so no KVM is needed) mounts this host's
file system read-only by virtiofs and runs `tests.kernels.inside` with the same Python and the same objects.
"""
