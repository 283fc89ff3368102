//! A request body while it is buffered: memory first, an unlinked file past `request_buffer`.
//!
//! Owns the bytes and, through [`Spool`], the account of what all bodies of the instance take on disk. Knows no socket.
//! Invariant: what was appended is read back unchanged and in order, and a body that is dropped gives its place in the
//! account back.

use crate::offspring::in_child;
use rgunicorn_protocol::Sheet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

/// Where bodies go that are too long for memory: large, on disk, and emptied at boot by nobody, so the files have no
/// name (O_TMPFILE, open(2)).
const SPOOL_DIRECTORY: &str = "/var/tmp";

/// The account of spooled bytes, one for all workers of the instance: it stands on the scoreboard.
#[derive(Debug)]
pub struct Spool {
    sheet: Arc<Sheet>,
    limit: u64,
    buffer: u64,
}

/// Why a body cannot be kept.
#[derive(Debug)]
pub enum SpoolError {
    /// `spool_limit` is reached: 503, the client may try again.
    Full,
    /// The disk is full or unwritable.
    Failure(io::Error),
}

impl Spool {
    /// `limit` bytes on disk in all (0: unlimited), `buffer` bytes in memory per body.
    pub fn new(sheet: Arc<Sheet>, limit: u64, buffer: u64) -> Arc<Spool> {
        Arc::new(Spool { sheet, limit, buffer })
    }

    fn take(&self, bytes: u64) -> Result<(), SpoolError> {
        if in_child() || self.sheet.take_spool(bytes, self.limit) { Ok(()) } else { Err(SpoolError::Full) }
    }

    fn give_back(&self, bytes: u64) {
        if !in_child() {
            self.sheet.give_spool_back(bytes);
        }
    }
}

/// A body that arrives, and then is read once.
#[derive(Debug)]
pub struct BufferedBody {
    memory: Vec<u8>,
    position: usize,
    file: Option<Spooled>,
}

#[derive(Debug)]
struct Spooled {
    file: File,
    length: u64,
    position: u64,
    spool: Arc<Spool>,
}

impl Drop for Spooled {
    fn drop(&mut self) {
        self.spool.give_back(self.length);
    }
}

impl BufferedBody {
    /// No bytes yet; `expected` is a hint from Content-Length.
    pub fn new(expected: Option<u64>, spool: &Spool) -> BufferedBody {
        let room = expected.filter(|n| *n <= spool.buffer).unwrap_or(0);
        BufferedBody { memory: Vec::with_capacity(room as usize), position: 0, file: None }
    }

    /// Adds what has arrived.
    ///
    /// # Errors
    /// See [`SpoolError`]; the body is then of no further use.
    pub fn append(&mut self, data: &[u8], spool: &Arc<Spool>) -> Result<(), SpoolError> {
        if self.file.is_none() {
            if (self.memory.len() + data.len()) as u64 <= spool.buffer {
                self.memory.extend_from_slice(data);
                return Ok(());
            }
            let file = tempfile::tempfile_in(SPOOL_DIRECTORY).map_err(SpoolError::Failure)?;
            self.file = Some(Spooled { file, length: 0, position: 0, spool: Arc::clone(spool) });
            let memory = std::mem::take(&mut self.memory);
            self.append_to_file(&memory)?;
        }
        self.append_to_file(data)
    }

    fn append_to_file(&mut self, data: &[u8]) -> Result<(), SpoolError> {
        let Some(spooled) = &mut self.file else { return Ok(()) };
        spooled.spool.take(data.len() as u64)?;
        spooled.length += data.len() as u64;
        spooled.file.write_all(data).map_err(SpoolError::Failure)
    }

    /// Bytes in all.
    pub fn length(&self) -> u64 {
        self.file.as_ref().map_or(self.memory.len() as u64, |spooled| spooled.length)
    }

    /// What is not read yet, if it is in memory.
    pub fn in_memory(&self) -> Option<&[u8]> {
        if self.file.is_some() { None } else { self.memory.get(self.position..) }
    }

    /// Marks `n` bytes of [`BufferedBody::in_memory`] as read.
    pub fn consume(&mut self, n: usize) {
        self.position = (self.position + n).min(self.memory.len());
    }

    /// Reads on. `Ok(0)`: the body has ended. May wait for the disk.
    ///
    /// # Errors
    /// Those of the file.
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.file {
            None => {
                let left = self.memory.get(self.position..).unwrap_or_default();
                let n = left.len().min(into.len());
                into[..n].copy_from_slice(&left[..n]);
                self.position += n;
                Ok(n)
            }
            Some(spooled) => {
                // Where writing ended is of no interest any more; the first read goes back to the start.
                if spooled.position == 0 {
                    spooled.file.seek(SeekFrom::Start(0))?;
                }
                let n = spooled.file.read(into)?;
                spooled.position += n as u64;
                Ok(n)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(limit: u64, buffer: u64) -> Arc<Spool> {
        Spool::new(Arc::new(Sheet::private(1).unwrap()), limit, buffer)
    }

    fn read_all(body: &mut BufferedBody) -> Vec<u8> {
        let (mut all, mut part) = (Vec::new(), [0; 7]);
        loop {
            match body.read(&mut part).unwrap() {
                0 => return all,
                n => all.extend_from_slice(&part[..n]),
            }
        }
    }

    #[test]
    fn a_body_is_read_back_unchanged_from_memory_and_from_disk() {
        for buffer in [1_000, 10, 0] {
            let spool = spool(0, buffer);
            let mut body = BufferedBody::new(None, &spool);
            let mut sent = Vec::new();
            for n in 0..50_u8 {
                let part = vec![n; 1 + usize::from(n % 7)];
                body.append(&part, &spool).unwrap();
                sent.extend_from_slice(&part);
            }
            assert_eq!(body.length(), sent.len() as u64);
            assert_eq!(body.in_memory().is_some(), buffer == 1_000);
            assert_eq!(read_all(&mut body), sent);
            drop(body);
            assert_eq!(spool.sheet.spooled(), 0);
        }
    }

    #[test]
    fn the_limit_holds_over_all_bodies_and_is_given_back() {
        let spool = spool(100, 10);
        let mut first = BufferedBody::new(None, &spool);
        first.append(&[0; 80], &spool).unwrap();
        let mut second = BufferedBody::new(None, &spool);
        assert!(matches!(second.append(&[0; 30], &spool), Err(SpoolError::Full)));
        drop((first, second));
        let mut third = BufferedBody::new(None, &spool);
        third.append(&[0; 90], &spool).unwrap();
    }
}
