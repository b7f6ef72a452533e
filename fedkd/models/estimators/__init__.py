"""Estimators of scikit-learn, XGBoost and LightGBM as models of clients, beside networks."""
