"""Scripts that peers run in processes of their own, some of them in environments without torch.

    python -m analysis.apart.NAME JOB_FILE

Each loads what the job says in its library's own way, and prints one line with what it measured.
"""
