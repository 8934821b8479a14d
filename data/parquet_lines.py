#!/usr/bin/env python3
"""Rows of a Parquet file as JSON lines, for data/prepare and data/benchmarks. Needs pyarrow (pip install pyarrow).

    parquet_lines.py FILE                            bytes of each row group, one a line
    parquet_lines.py FILE FIRST END [FIELD ...]      rows of row groups FIRST .. END-1, all fields or these
"""
import json
import sys

try:
    import pyarrow.parquet as parquet
except ImportError:
    sys.exit("parquet_lines.py: no pyarrow in this Python; pip install pyarrow, or PYTHON=/path/to/another")


def main():
    if len(sys.argv) not in (2,) and len(sys.argv) < 4:
        sys.exit(__doc__)
    file = parquet.ParquetFile(sys.argv[1])
    if len(sys.argv) == 2:
        for group in range(file.num_row_groups):
            print(file.metadata.row_group(group).total_byte_size)
        return
    fields = sys.argv[4:] or None
    known = set(file.schema_arrow.names)
    for field in fields or ():
        if field not in known:
            sys.exit(f"parquet_lines.py: {sys.argv[1]}: no field {field}; it has {', '.join(sorted(known))}")
    groups = list(range(int(sys.argv[2]), int(sys.argv[3])))
    for batch in file.iter_batches(batch_size=1024, row_groups=groups, columns=fields):
        sys.stdout.write("".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in batch.to_pylist()))


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit(1)
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds
        sys.exit(f"parquet_lines.py: {sys.argv[1]}: {error}")
