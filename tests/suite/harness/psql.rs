//! Writing as people write by hand.

use std::process::Stdio;

use tokio::{io::AsyncWriteExt, process::Command};

/// Runs a script, each statement a transaction of its own unless it says otherwise, and returns the rows: a line
/// each, columns parted by `|`. Panics at the first error.
pub async fn run(url: &str, script: &str) -> String {
    let output = try_run(url, script).await;
    output.unwrap_or_else(|error| panic!("psql: {error}\nin: {script}"))
}

/// `Err` is what psql wrote about the first error.
pub async fn try_run(url: &str, script: &str) -> Result<String, String> {
    let mut psql = Command::new("psql")
        .args([
            "--no-psqlrc",
            "--no-align",
            "--tuples-only",
            "--quiet",
            "--set=ON_ERROR_STOP=1",
            "--dbname",
            url,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir(super::scratch::root())
        .kill_on_drop(true)
        .spawn()
        .expect("psql is there: run tests/setup");
    let mut stdin = psql.stdin.take().expect("stdin is piped");
    // An error here is psql's end, which its status and words explain better.
    let _ = stdin.write_all(script.as_bytes()).await;
    drop(stdin);
    let output = psql.wait_with_output().await.expect("psql is our child");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}
