"""What chapter 07 reports about tasks that are made without labels: CACTUs and UMTRA against supervised tasks.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_07_tasks.py      (about 20 minutes on one core)
