//! Looks of a guest's code at one page of its memory: wherever it may go on for long.
//!
//! A look is a load whose result nobody uses, after every loop's start and at the start of every function that calls: what
//! runs between two of them is bounded by the length of a function. While the page can be read a look costs one
//! instruction and no register. wasmtime's own checks of its epoch hold two registers through all of a function and
//! branch; that takes a tenth to a sixth of the speed of code that goes through text byte by byte.
//!
//! The load is an atomic one, because a compiler may leave out or move any other whose result is not used.

use wasmparser::{BinaryReader, CodeSectionReader, FunctionBody, ImportSectionReader, Operator, TypeRef};

use super::Broken;

/// What the looks of the code are like: part of the name under which it is kept.
pub(crate) const VERSION: &[u8] = b"polls 1";

/// The address that is looked at, and where a memory must end therefore: 64 KiB short of 2 GiB, so that it fits the
/// displacement of an x86-64 instruction.
pub(crate) const PAGE: u32 = 0x7fff_0000;
/// In the page: no address that texts and tables start at shares its lowest bits.
const BYTE: u32 = PAGE + 0xfbf;

const HEADER: usize = 8;
/// Sections of a component.
const CORE_MODULE: u8 = 1;
const COMPONENT: u8 = 4;
/// Sections of a module.
const CUSTOM: u8 = 0;
const IMPORT: u8 = 2;
const MEMORY: u8 = 5;
const CODE: u8 = 10;
/// The first byte of all atomic instructions.
const ATOMIC: u8 = 0xfe;

/// `component` with looks in all of its modules, however deep.
pub(crate) fn insert(component: &[u8]) -> Result<Vec<u8>, Broken> {
    let is_module = component.get(4) == Some(&1);
    if is_module { in_module(component) } else { in_component(component) }
}

/// The sections after the header: number and content.
fn sections(bytes: &[u8]) -> Result<Vec<(u8, &[u8])>, Broken> {
    let mut reader = BinaryReader::new(bytes, 0);
    reader.read_bytes(HEADER)?;
    let mut found = Vec::new();
    while !reader.eof() {
        let section = reader.read_u8()?;
        let length = reader.read_var_u32()? as usize;
        found.push((section, reader.read_bytes(length)?));
    }
    Ok(found)
}

fn in_component(component: &[u8]) -> Result<Vec<u8>, Broken> {
    let sections = sections(component)?;
    let mut out = component[..HEADER].to_vec();
    for (section, content) in sections {
        match section {
            CORE_MODULE => push_section(&mut out, section, &in_module(content)?),
            COMPONENT => push_section(&mut out, section, &in_component(content)?),
            _ => push_section(&mut out, section, content),
        }
    }
    Ok(out)
}

fn in_module(module: &[u8]) -> Result<Vec<u8>, Broken> {
    let sections = sections(module)?;
    let mut out = module[..HEADER].to_vec();
    let mut has_memory = has_memory(&sections)?;
    for (section, content) in &sections {
        // In the order of the format, which is not that of the numbers for the last ones: all after memories are greater.
        if *section > MEMORY && !has_memory {
            // One memory of no page.
            push_section(&mut out, MEMORY, &[1, 0, 0]);
            has_memory = true;
        }
        match *section {
            CODE => push_section(&mut out, CODE, &in_code(content)?),
            // Some of these point into code.
            CUSTOM => {}
            _ => push_section(&mut out, *section, content),
        }
    }
    Ok(out)
}

fn has_memory(sections: &[(u8, &[u8])]) -> Result<bool, Broken> {
    for (section, content) in sections {
        match *section {
            MEMORY if content.first() != Some(&0) => return Ok(true),
            IMPORT => {
                for import in ImportSectionReader::new(BinaryReader::new(content, 0))?.into_imports() {
                    if matches!(import?.ty, TypeRef::Memory(_)) {
                        return Ok(true);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(false)
}

fn in_code(content: &[u8]) -> Result<Vec<u8>, Broken> {
    let bodies = CodeSectionReader::new(BinaryReader::new(content, 0))?;
    let mut out = Vec::with_capacity(content.len() + content.len() / 16);
    push_number(&mut out, bodies.count() as usize);
    for body in bodies {
        let body = in_function(&body?)?;
        push_number(&mut out, body.len());
        out.extend_from_slice(&body);
    }
    Ok(out)
}

fn in_function(body: &FunctionBody<'_>) -> Result<Vec<u8>, Broken> {
    let (bytes, base) = (body.as_bytes(), body.range().start);
    let mut operators = body.get_operators_reader()?;
    let start = operators.original_position() - base;
    let (mut calls, mut loops) = (false, Vec::new());
    while !operators.eof() {
        let (operator, at) = operators.read_with_offset()?;
        if bytes[at - base] == ATOMIC {
            return Err("it uses atomic instructions, but has no threads".into());
        }
        match operator {
            Operator::Loop { .. } => loops.push(operators.original_position() - base),
            Operator::Call { .. }
            | Operator::CallIndirect { .. }
            | Operator::CallRef { .. }
            | Operator::ReturnCall { .. }
            | Operator::ReturnCallIndirect { .. }
            | Operator::ReturnCallRef { .. } => calls = true,
            _ => {}
        }
    }
    let mut out = Vec::with_capacity(bytes.len() + 16 * (loops.len() + 1));
    let mut copied = 0;
    for at in calls.then_some(start).into_iter().chain(loops) {
        out.extend_from_slice(&bytes[copied..at]);
        push_look(&mut out);
        copied = at;
    }
    out.extend_from_slice(&bytes[copied..]);
    Ok(out)
}

/// `i32.const BYTE`, `i32.atomic.load8_u`, `drop`.
fn push_look(out: &mut Vec<u8>) {
    out.push(0x41);
    // A positive number of 31 bits takes as many bytes whether it has a sign or not.
    push_number(out, BYTE as usize);
    out.extend_from_slice(&[ATOMIC, 0x12, 0, 0, 0x1a]);
}

fn push_section(out: &mut Vec<u8>, section: u8, content: &[u8]) {
    out.push(section);
    push_number(out, content.len());
    out.extend_from_slice(content);
}

/// LEB128.
fn push_number(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
