# The server alone; versions as in constraints.txt. boto3 is the server's own: clients send artifacts through it.
FROM python:3.11-slim
RUN pip install --no-cache-dir mlflow==3.17.2 databricks-sdk==0.156.0 psycopg2-binary==2.9.13 boto3==1.44.5
