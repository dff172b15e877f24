"""Names of files in ``safety.work_dir``."""

LATEST = "datasets/latest.json"  # in work_dir: which hashes the last finished stage wrote


REPORT = "report.html"  # in work_dir
