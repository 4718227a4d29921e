"""A cluster of Ray with two nodes of one CPU each, on 127.0.0.1: `python two_nodes.py
CLIENT_PORT`. Says the process ids of the nodes when it stands. A line of its standard input kills
the second node; at the end of the input all end.
"""

from __future__ import annotations

import json
import sys

from ray.cluster_utils import Cluster

NODE = {
    "num_cpus": 1,
    "num_gpus": 0,
    "include_dashboard": False,
    "object_store_memory": 80_000_000,
}
# A node that is gone is known after 3 s in place of 15
HEALTH = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}


def main(client_port: int) -> None:
    head = {**NODE, "ray_client_server_port": client_port, "_system_config": HEALTH}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [cluster.head_node, cluster.add_node(**NODE)]
        ids = [node.all_processes["raylet"][0].process.pid for node in nodes]
        sys.stdout.write(json.dumps(ids) + "\n")
        sys.stdout.flush()
        if sys.stdin.readline():
            cluster.remove_node(nodes[1], allow_graceful=False)
            sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
