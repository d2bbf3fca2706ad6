"""Test files: policies, a small world and expected verdicts, judged without a cluster."""
