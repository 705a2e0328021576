-- Run once, when the volume is empty. The state's own tables are made by the Job hscode-migrations, MLflow's by MLflow.
CREATE DATABASE hscode;
CREATE DATABASE mlflow;
