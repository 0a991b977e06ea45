//! The user's own statements: each must succeed, and where it answers with a truth value, that must be true.

use std::pin::pin;
use std::time::Instant;

use anyhow::Result;
use futures::TryStreamExt;
use repository::drill::Check;
use restore::scratch::{Server, sql_message};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::check;

/// Runs them one after the other in one session.
pub(super) async fn run(server: &Server, database: &str, statements: &[String]) -> Result<Check> {
    let begun = Instant::now();
    let summary = format!("{} statements in database {database}", statements.len());
    let mut problems = Vec::new();
    match server.connect(database).await {
        Ok(client) => {
            for statement in statements {
                if let Err(why) = run_one(&client, statement).await {
                    let short: String = statement.chars().take(200).collect();
                    problems.push(format!("{short}: {why}"));
                }
            }
        }
        Err(error) => problems.push(format!("{error:#}")),
    }
    Ok(check("sql", summary, (problems.len(), problems), begun))
}

async fn run_one(client: &Client, statement: &str) -> Result<(), String> {
    let told = |error: tokio_postgres::Error| sql_message(&error);
    let prepared = client.prepare(statement).await.map_err(told)?;
    let judges = prepared.columns().first().is_some_and(|column| *column.type_() == Type::BOOL);
    let parameters: [String; 0] = [];
    let mut rows = pin!(client.query_raw(&prepared, parameters).await.map_err(told)?);
    while let Some(row) = rows.try_next().await.map_err(told)? {
        // What the values are is nobody's business here.
        if judges && row.try_get::<_, Option<bool>>(0).map_err(told)? != Some(true) {
            return Err("the answer is not true".to_owned());
        }
    }
    Ok(())
}
