'use strict'
// A command line for logs of the npm package scuttleup on LevelDB, for the tests. The packages are loaded from
// VARIANT/node_modules.
//
//   node log.js VARIANT DIR append [--id ID]     each line of stdin is an entry
//   node log.js VARIANT DIR read                 {"peer","seq","base64"} per entry
//   node log.js VARIANT DIR heads                {"peer","seq"} per feed
//   node log.js VARIANT DIR del PEER SEQ
//   node log.js VARIANT DIR replicate [--id ID] [--mode MODE] [--live] [--tap PATH] [-- COMMAND ARG…]
//
// With --base64, each line of stdin is an entry in base64; with --utf8, the valueEncoding of the log is utf-8 instead of
// binary. replicate uses stdin and stdout of this process. With a COMMAND, it uses stdin and stdout of COMMAND; then each
// line of stdin is an entry to append, the end of stdin ends the session, and stdout has a line {"peer","seq"} for each
// stored entry and a line {"exit":CODE} when COMMAND has ended. With --tap, the bytes that replicate reads and writes are
// also written to PATH.read and PATH.written.

const fs = require('fs')
const path = require('path')
const net = require('net')
const readline = require('readline')
const { createRequire } = require('module')
const { spawn } = require('child_process')

const [variant, dir, command, ...rest] = process.argv.slice(2)
const original = createRequire(path.join(__dirname, variant, 'package.json'))
const levelup = original('levelup')
const encode = original('encoding-down')
const leveldown = original('leveldown')
const scuttleup = original('scuttleup')

const options = { mode: 'sync' }
const words = []
while (rest.length) {
  const word = rest.shift()
  if (word === '--') options.command = rest.splice(0)
  else if (['--mode', '--id', '--tap'].includes(word)) options[word.slice(2)] = rest.shift()
  else if (word.startsWith('--')) options[word.slice(2)] = true
  else words.push(word)
}

const print = (value) => process.stdout.write(JSON.stringify(value) + '\n')
const failed = (err) => { if (err) throw err }

const commands = {
  append: (log) => eachLine((line) => log.append(entry(line), failed)),

  read: (log) => log.createReadStream()
    .on('data', ({ peer, seq, entry }) => print({ peer, seq, base64: Buffer.from(entry).toString('base64') })),

  heads: (log) => log.head.forEach(({ peer, seq }) => print({ peer, seq })),

  del: (log) => log.del(words[0], Number(words[1]), failed),

  replicate (log) {
    const stream = log.createReplicationStream({ mode: options.mode, live: !!options.live })
    if (!options.command) {
      // Not process.stdout: it cannot be closed.
      join(stream, process.stdin, new net.Socket({ fd: 1, readable: false, writable: true }))
      return
    }
    const child = spawn(options.command[0], options.command.slice(1), { stdio: ['pipe', 'pipe', 'inherit'] })
    let ended = false
    stream.on('end', () => { ended = true })
    child.on('exit', (exit) => { print({ exit }); process.stdin.destroy() })
    log.on('append', ({ peer, seq }) => print({ peer, seq }))
    join(stream, child.stdout, child.stdin)
    eachLine((line) => log.append(entry(line), failed)).on('close', () => {
      // If the modes do not let the original send, the stream has ended its output before.
      if (ended) child.stdout.destroy()
      stream.unpipe(child.stdin)
      child.stdin.end()
    })
  }
}

function eachLine (take) {
  return readline.createInterface({ input: process.stdin, crlfDelay: Infinity }).on('line', take)
}

function entry (line) {
  const bytes = Buffer.from(line, options.base64 ? 'base64' : 'utf8')
  return options.utf8 ? bytes.toString() : bytes
}

// Connected as in the README of the package. When the stream destroys itself, close both directions, as pipes and sockets do.
function join (stream, input, output) {
  if (options.tap) {
    record(input, options.tap + '.read')
    stream.pipe(fs.createWriteStream(options.tap + '.written'))
  }
  input.pipe(stream).pipe(output)
  input.on('error', () => {})
  output.on('error', () => {})
  stream.on('close', () => { input.destroy(); output.end() })
}

// Written at once and not through a pipe: bytes in the buffer of a stream are lost when the stream is destroyed.
function record (input, file) {
  const fd = fs.openSync(file, 'w')
  const push = input.push
  input.push = function (chunk, ...more) {
    if (chunk) fs.writeSync(fd, chunk)
    return push.call(this, chunk, ...more)
  }
}

// The database is never closed: the process ends when nothing is left to do, and entries may still wait to be stored.
const db = levelup(encode(leveldown(dir), { valueEncoding: 'binary' }), (err) => {
  failed(err)
  const log = scuttleup(db, { id: options.id, valueEncoding: options.utf8 ? 'utf-8' : 'binary' })
  log.on('error', failed)
  log.on('ready', () => commands[command](log))
})
