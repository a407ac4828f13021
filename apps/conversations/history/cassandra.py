class CassandraHistory:
    def __init__(self, url: str) -> None:
        raise SystemExit("being written")
