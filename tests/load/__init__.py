"""
How fast the server is, measured: `make bench`.

`websocket` is a client that costs next to nothing, `chat` and `xmpp` speak over it; `targets` are what can be measured,
each started on a core of its own; `workloads` say what people do; `pace` sends when a message is due and finds the
highest rate that holds; `tally` counts and `report` is what comes out. `bench`, `compare`, `overload`, `curves` and
`push` are commands. docs/performance.md tells the method.
"""
