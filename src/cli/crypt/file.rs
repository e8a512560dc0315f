//! A file of any size, through the daemon in constant memory.

use std::path::{Path, PathBuf};

use serde_json::json;
use tokio::io::AsyncRead;

use super::{Job, Verb};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::progress::{self, Counted};
use crate::cli::{Shell, context};

/// Something to read: a file or stdin.
pub(super) struct Input {
    pub(super) reader: Box<dyn AsyncRead + Unpin>,
    pub(super) path: PathBuf,
    /// Bytes, where they are known.
    pub(super) size: Option<u64>,
}

impl Input {
    /// Opens `path`; stdin when there is none or it is `-`.
    pub(super) async fn open(path: Option<&Path>) -> Result<Self, Failure> {
        match path {
            Some(path) if path != Path::new("-") => Self::file(path).await,
            _ => Ok(Self { reader: Box::new(tokio::io::stdin()), path: "stdin".into(), size: None }),
        }
    }

    async fn file(path: &Path) -> Result<Self, Failure> {
        let file = tokio::fs::File::open(path).await.map_err(Failure::file("open", path))?;
        let metadata = file.metadata().await.map_err(Failure::file("open", path))?;
        let size = metadata.is_file().then_some(metadata.len());
        Ok(Self { reader: Box::new(file), path: path.into(), size })
    }
}

/// Whether the output goes to stdout.
pub(super) fn to_stdout(job: &Job) -> bool {
    job.output.as_deref().is_none_or(|path| path == Path::new("-"))
}

pub(super) async fn run(verb: Verb, job: Job, shell: &mut Shell) -> Result<(), Failure> {
    let about = context::context(&job.context)?;
    let stdout = to_stdout(&job);
    if stdout && shell.print.to_terminal {
        return Err(Failure::Terminal);
    }
    let input = Input::open(job.input.as_deref()).await?;
    let client = shell.client().await?;
    let mut output = Output::open(job.output.as_deref(), job.force)?;
    let bar = progress::bytes(input.size, shell.print.hides_progress());
    let reader = Counted::new(input.reader, bar.clone());
    let key = job.key.to_string();
    let streamed = match verb {
        Verb::Encrypt => client.encrypt_stream(&key, &about, reader, output.writer()).await,
        Verb::Decrypt => client.decrypt_stream(&key, &about, reader, output.writer()).await,
        Verb::ReEncrypt => {
            return Err(Failure::Usage(
                "a file cannot be re-encrypted: decrypt it and encrypt it again".into(),
            ));
        }
    };
    bar.finish_and_clear();
    let streamed = streamed.map_err(|error| Failure::stream(error, &input.path, output.path()))?;
    output.commit().await?;
    if stdout {
        return Ok(());
    }
    let value = json!({
        "bytes_in": streamed.bytes_in, "bytes_out": streamed.bytes_out, "version": streamed.version,
    });
    shell.print.report(&format!("{} {} bytes", verb.past(), streamed.bytes_in), &value)
}
