-- Run once by Postgres, when its volume is empty
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
