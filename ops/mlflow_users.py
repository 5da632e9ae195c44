"""Decides whose requests MLflow's server answers; ops/mlflow-auth.ini names the function.

A browser that knows the password sends it along with every request to the server, whatever page has asked for it.
MLflow itself refuses what pages of other sites ask for, but not pages of this machine on any other port: a notebook's,
say, or another user's. Here these are refused too.
"""

import os
from urllib.parse import urlsplit

from flask import Response, request
from mlflow.server.auth import authenticate_request_basic_auth
from werkzeug.datastructures import Authorization


def authenticate() -> Authorization | Response:
    """Asks for user and password, and refuses requests of all pages but the server's own."""
    origin = request.headers.get("Origin")
    own = os.environ["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].split(",")
    if origin and origin not in own and urlsplit(origin).netloc != request.headers["Host"]:
        return Response(f"Pages of {origin} may not use this server", 403, mimetype="text/plain")
    return authenticate_request_basic_auth()
