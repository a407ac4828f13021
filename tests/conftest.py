pytest_plugins = ["tests.embedded"]
