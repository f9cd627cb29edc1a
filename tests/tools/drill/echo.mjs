// The drill's own handlers (wsraw/tools/drill/target/echo.py) in JavaScript, for pools of both.
import { appendFileSync } from 'node:fs'
import { join } from 'node:path'
import { Worker } from '../../../examples/workers/javascript/worker.mjs'

const HANG = 'wsraw drill: hang'
const HEADER = 16 // bytes, as in wsraw/tools/drill/load/record.py
const closeLog = process.env.DRILL_CLOSE_LOG

function report (line) {
  if (closeLog) appendFileSync(join(closeLog, `${process.pid}`), line)
}

report('') // creates a file: these handlers report

const handlers = {
  on_message ({ data, type, final }, con) {
    const text = Buffer.from(data).toString('latin1')
    if (text === HANG) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
    const kept = Buffer.from(con.state ?? [])
    if (kept.length < HEADER) con.state = Buffer.concat([kept, data]).subarray(0, HEADER)
    con.send(data, type, final)
  },

  on_close (con, code, reason, cause, delivery = 1) {
    const kept = Buffer.from(con.state ?? '-').toString('latin1') || '-'
    report(`${con.about.peer} ${code} ${cause} ${kept} ${con.id} ${delivery}\n`)
  }
}

await new Worker(handlers).run()
