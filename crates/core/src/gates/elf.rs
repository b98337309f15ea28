//! What the dynamic linker reads of an ELF file; the format is that of elf(5).

use std::fs::File;
use std::io::Read;
use std::path::Path;

use be_btrfs::Root;
use object::Endianness;
use object::elf::{
    DT_NEEDED, DT_NULL, DT_RPATH, DT_RUNPATH, DT_SONAME, DT_STRSZ, DT_STRTAB, ELFCLASS64, ELFMAG,
    FileHeader32, FileHeader64, PT_LOAD,
};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::read::{ReadCache, ReadRef, StringTable};

/// For which machine a file is: the linker passes over a library that is for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Machine {
    /// 32 or 64 bits, and the byte order.
    class: [u8; 2],
    /// `e_machine`, as its two bytes.
    number: [u8; 2],
}

/// As much of a file as says whether it is ELF, and for which machine.
const HEAD: usize = 20;

impl Machine {
    /// Of the file that begins so; none if that is not ELF.
    fn of(head: &[u8; HEAD]) -> Option<Self> {
        head.starts_with(&ELFMAG).then_some(Self {
            class: [head[4], head[5]],
            number: [head[18], head[19]],
        })
    }

    /// Of an open file.
    pub(super) fn read(file: &mut File) -> Option<Self> {
        let mut head = [0; HEAD];
        file.read_exact(&mut head).ok()?;
        Self::of(&head)
    }

    /// Of the file at a path, links followed; none if nothing is there, or no ELF file.
    pub(super) fn at(root: &Root, path: &Path) -> Option<Self> {
        Self::read(&mut root.file(path).ok()?)
    }
}

/// One ELF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Elf {
    /// Who can load it.
    pub(super) machine: Machine,
    /// The name that others need it by.
    pub(super) soname: Option<String>,
    /// What has to be loaded with it; of an executable its interpreter, too.
    pub(super) needed: Vec<String>,
    /// Where to search first, as written: its RUNPATH, or RPATH without one.
    pub(super) path: Vec<String>,
}

impl Elf {
    /// The one at a path, links followed.
    pub(super) fn at(root: &Root, path: &Path) -> Option<Self> {
        Self::read(root.file(path).ok()?)
    }

    /// Read one; none if it is not ELF, or damaged so that nobody could load it.
    pub(super) fn read(mut file: File) -> Option<Self> {
        let machine = Machine::read(&mut file)?;
        let data = ReadCache::new(file);
        let read = match machine.class[0] {
            ELFCLASS64 => dynamic::<FileHeader64<Endianness>, _>(&data, machine),
            _ => dynamic::<FileHeader32<Endianness>, _>(&data, machine),
        };
        read.ok()
    }
}

fn dynamic<'a, H, R>(data: R, machine: Machine) -> object::Result<Elf>
where
    H: FileHeader<Endian = Endianness>,
    R: ReadRef<'a>,
{
    let mut elf = Elf {
        machine,
        soname: None,
        needed: Vec::new(),
        path: Vec::new(),
    };
    let header = H::parse(data)?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, data)?;
    let mut entries: &[_] = &[];
    for segment in segments {
        if let Some(path) = segment.interpreter(endian, data)? {
            elf.needed.push(text(path));
        }
        if let Some(found) = segment.dynamic(endian, data)? {
            entries = found;
        }
    }
    let entries = entries.iter().map(|entry| {
        let tag: i64 = entry.d_tag(endian).into();
        let value: u64 = entry.d_val(endian).into();
        (tag, value)
    });
    let entries: Vec<_> = entries.take_while(|(tag, _)| *tag != DT_NULL).collect();
    let value = |wanted| entries.iter().find(|(tag, _)| *tag == wanted).map(|e| e.1);
    let (Some(address), Some(size)) = (value(DT_STRTAB), value(DT_STRSZ)) else {
        return Ok(elf);
    };
    // The address is that in memory; the segment that is loaded there says where it lies.
    let at = segments.iter().find_map(|segment| {
        let start: u64 = segment.p_vaddr(endian).into();
        let length: u64 = segment.p_filesz(endian).into();
        let offset: u64 = segment.p_offset(endian).into();
        let inside = address.checked_sub(start).filter(|i| *i < length)?;
        (segment.p_type(endian) == PT_LOAD).then(|| offset.checked_add(inside))?
    });
    let Some((start, end)) = at.and_then(|at| Some((at, at.checked_add(size)?))) else {
        return Ok(elf);
    };
    let strings = StringTable::new(data, start, end);
    let string = |value: u64| {
        let offset = u32::try_from(value).ok()?;
        strings.get(offset).ok().map(text)
    };
    let mut runpath = None;
    for (tag, value) in entries {
        match tag {
            DT_NEEDED => elf.needed.extend(string(value)),
            DT_SONAME => elf.soname = string(value),
            DT_RPATH => elf.path = string(value).map_or_else(Vec::new, |t| split(&t)),
            DT_RUNPATH => runpath = string(value),
            _ => {}
        }
    }
    if let Some(runpath) = runpath {
        elf.path = split(&runpath);
    }
    Ok(elf)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn split(path: &str) -> Vec<String> {
    let parts = path.split(':').filter(|p| !p.is_empty());
    parts.map(str::to_owned).collect()
}
