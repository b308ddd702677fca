//! `reeve decode`: what Reeve makes of notifications, one JSON object a line.

use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use reeve_protocol::openstack::{describe, documents};

use super::fail::{Code, Failure};
use super::output::Output;

/// The most bytes that are read of one input.
const MAX_INPUT_BYTES: u64 = 256 * 1024 * 1024;

/// Decodes the files in order, or standard input, and fails if anything was refused or could not be read.
pub(super) fn run(output: Output, files: &[PathBuf]) -> Result<(), Failure> {
    let standard_input = [PathBuf::from("-")];
    let files = if files.is_empty() { &standard_input } else { files };
    let mut out = BufWriter::new(io::stdout().lock());
    let (mut refused, mut unreadable) = (0u64, 0u64);
    for file in files {
        match read(file) {
            Ok(input) => refused += decode(&file.display().to_string(), &input, &mut out)?,
            Err(error) => {
                unreadable += 1;
                // In the order of the files, also where both outputs go to one place.
                out.flush()?;
                output.failure(&Failure::new(Code::Failed, format!("cannot read {}", file.display())).because(error));
            }
        }
    }
    out.flush()?;
    match (refused, unreadable) {
        (0, 0) => Ok(()),
        (refused, 0) => Err(Failure::new(Code::Failed, format!("{refused} documents were refused"))),
        (0, unreadable) => Err(Failure::new(Code::Failed, format!("{unreadable} files could not be read"))),
        (refused, unreadable) => {
            let what = format!("{refused} documents were refused, {unreadable} files could not be read");
            Err(Failure::new(Code::Failed, what))
        }
    }
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut input = Vec::new();
    if file.as_os_str() == "-" {
        io::stdin().lock().take(MAX_INPUT_BYTES + 1).read_to_end(&mut input)?;
    } else {
        std::fs::File::open(file)?.take(MAX_INPUT_BYTES + 1).read_to_end(&mut input)?;
    }
    if input.len() as u64 > MAX_INPUT_BYTES {
        return Err(io::Error::other(format!("more than {MAX_INPUT_BYTES} bytes: split it")));
    }
    Ok(input)
}

/// Writes a line for each document and returns how many were refused.
fn decode(name: &str, input: &[u8], out: &mut impl Write) -> Result<u64, Failure> {
    let mut refused = 0;
    for document in documents(input) {
        let line = describe(name, document);
        refused += u64::from(line.refused());
        serde_json::to_writer(&mut *out, &line).map_err(io::Error::from)?;
        out.write_all(b"\n")?;
    }
    Ok(refused)
}
