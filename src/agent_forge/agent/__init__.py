"""The agent room: a model that calls tools. Calls, tools, the sandbox, retrieval, and the loop that runs them."""
