// The drill's own handlers (wsraw/tools/drill/target/echo.py) in JavaScript, for pools of both.
import { appendFileSync } from 'node:fs'
import { Worker } from '../../examples/workers/javascript/worker.mjs'

const WATCH = 'wsraw drill: watch'
const HANG = 'wsraw drill: hang'
const HEADER = 16 // bytes, as in wsraw/tools/drill/load/record.py
const ledger = process.env.DRILL_LEDGER

const handlers = {
  on_message ({ data, type, final }, con) {
    const text = Buffer.from(data).toString('latin1')
    if (text === WATCH) {
      con.worker.command('join', con.id, WATCH)
      return con.send(`${WATCH} ${con.about.peer}`)
    }
    if (text === HANG) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
    const kept = Buffer.from(con.state ?? [])
    if (kept.length < HEADER) con.state = Buffer.concat([kept, data]).subarray(0, HEADER)
    con.send(data, type, final)
  },

  on_close (con, code, reason, cause, delivery = 1) {
    const kept = Buffer.from(con.state ?? '-').toString('latin1') || '-'
    const told = `${con.about.peer} ${code} ${cause} ${kept}`
    if (ledger) appendFileSync(ledger, `${told} ${con.id} ${delivery}\n`)
    else con.worker.command('publish', WATCH, told, 'text')
  }
}

await new Worker(handlers).run()
