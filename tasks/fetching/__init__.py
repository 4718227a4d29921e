"""Raw datasets: downloaded, unpacked and registered with DVC."""
