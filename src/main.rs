use std::process::ExitCode;
use std::time::Duration;

use rowcast::chain;
use rowcast::cli::{self, Cli};
use tokio::task::JoinError;

/// The allocator keeps what is freed for the threads of one arena: with sixteen
/// threads a slow endpoint took twice the memory.
const THREADS: usize = 2;
const HANGS_END_WITHIN: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = cli::parse();
    let logs_json = cli.logs_json();
    if let Err(error) = cli.init_log() {
        print_chain(&error);
        return ExitCode::from(cli::exit_code(&error));
    }
    let result = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let ended = runtime.block_on(on_a_worker(cli));
            // A disk or a resolver that hangs must not keep the process.
            runtime.shutdown_timeout(HANGS_END_WITHIN);
            ended
        });
    let Err(error) = result else { return ExitCode::SUCCESS };
    if logs_json {
        let causes = Some(causes(&error).join(": ")).filter(|causes| !causes.is_empty());
        let hint = cli::hint(&error);
        tracing::error!(causes, hint, "{error}");
    } else {
        print_chain(&error);
    }
    ExitCode::from(cli::exit_code(&error))
}

/// On this thread, which is none of the runtime's workers, each wake-up of a
/// stage would cost a switch between threads.
async fn on_a_worker(cli: Cli) -> anyhow::Result<()> {
    match tokio::spawn(cli::run(cli)).await.map_err(JoinError::try_into_panic) {
        Ok(result) => result,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => unreachable!("nobody aborts it"),
    }
}

#[expect(clippy::print_stderr, reason = "the one place where a failure is printed")]
fn print_chain(error: &anyhow::Error) {
    eprintln!("error: {error}");
    for cause in causes(error) {
        eprintln!("caused by: {cause}");
    }
    if let Some(hint) = cli::hint(error) {
        eprintln!("help: {hint}");
    }
}

/// What led to the error.
fn causes(error: &anyhow::Error) -> Vec<String> {
    chain::parts(error.as_ref()).split_off(1)
}
